"""Did it leave its cell? What the loss looks like around and between the places of a run.

Each analysis is one module here and one YAML in conf/analysis.
"""
