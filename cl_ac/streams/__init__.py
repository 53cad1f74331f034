"""How the data of a benchmark arrive: what each task brings, as pure functions of labels and a seed."""
