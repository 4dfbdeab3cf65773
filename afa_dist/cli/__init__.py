"""Reading the command line, reporting mistakes, showing progress: what the jobs are made of."""
