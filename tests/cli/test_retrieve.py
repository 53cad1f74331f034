"""The command `retrieve`: a whole run out of tables, and each mistake as one sentence."""
