"""How long what is stored is there: partitions, what is past its time, and people who are to be erased."""
