"""How fast the engine is, beside its peers and beside what the machine allows: see README.md here."""
