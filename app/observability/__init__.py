"""What operators see: the log, metrics, traces and the ledger.

Imports nothing of ours.
"""
