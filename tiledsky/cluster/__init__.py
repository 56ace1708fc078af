"""Workers: local processes, job queues, a cluster that runs already."""
