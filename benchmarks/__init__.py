"""What forkserve costs beside its peers; compare.py is the command. Not part of the installed package."""
