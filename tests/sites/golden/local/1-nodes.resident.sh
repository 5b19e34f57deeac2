Site local has no batch system to write a script for.
