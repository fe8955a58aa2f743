"""The paper's programme: one river of stages, a grid of cells over it, and what runs them.

    profiles.yaml   sizes and flags of each stage by profile (mini, small, paper); costs to expect
    grid/*.yaml     the cells of each table and figure, keyed like the paper's
    grid.py         reads them: cells
    river.py        the pipeline, written down once: a cell's stages, their inputs, their names
    commands.py     a job: its words, what it reads, the fingerprint that names it
    plan.py         all jobs of an experiment, what they share, cost and need; plan.json
    run.py          python -m experiments.run: dry run, engine, progress, table
    Snakefile, job.py   how a job is executed, here or on a cluster

May import core; calls the commands of the other rooms, and imports nothing of them.
"""
