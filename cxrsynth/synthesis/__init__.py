"""Synthesis: plan, paint at native size, write with provenance."""
