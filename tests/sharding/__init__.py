"""The plan for more members than one replica set can serve: the chains partitioned by member."""
