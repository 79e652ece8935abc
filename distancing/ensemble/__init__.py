"""Ensembles of stored networks: their scores, their diversity, and the comparison of different kinds of ensembles."""
