"""Fast simulation: a mixture of generative experts makes a calorimeter's showers in place of a Monte-Carlo."""
