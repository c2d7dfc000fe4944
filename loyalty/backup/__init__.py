"""Backups and recovery: the program of the backup host.

It pulls: what it keeps cannot be reached from the servers that it copies. docs/decisions/0029 says what is kept, how
and why.
"""
