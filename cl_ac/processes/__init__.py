"""One run on several devices: each process does the same run, and the passes of the network are shared out."""
