"""Launching jobs on clusters: Slurm, Ray, Kubernetes."""
