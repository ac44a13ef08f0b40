"""What replicas share, in Redis: counters, semaphores, the job table, circuit reports.

The only package that imports redis. Knows nothing of requests or images. May import `errors` and `observability`.
"""
