"""Runs on stores: plan, dependencies, memory, commit, driver."""
