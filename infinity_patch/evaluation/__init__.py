"""How far compressed caches move pictures: protocols, measures, and what is kept."""
