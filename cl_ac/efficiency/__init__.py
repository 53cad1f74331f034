"""Transformers that compute only what each input needs: sparsity, experts, routers, gates."""
