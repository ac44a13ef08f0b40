"""What Limner costs: processor time and memory a request, beside a relay and a bare translator in the same run."""
