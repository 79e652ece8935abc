"""Analyses of the loss around and between checkpoints: did training leave the basin that it was in?

The thesis calls a basin of the loss a "cell". Each analysis is one module here and one YAML file in conf/analysis.
"""
