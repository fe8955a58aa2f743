"""What W&B is told of an experiment: runs of its stages, artifacts with lineage, a dashboard.

From the plan and the records alone. May import core, data.formats, dit.training.tracking,
eval.programme and eval.records. Light to import: wandb is loaded where something is published.
"""
