"""What is assumed of a pair and its devices: acceptance, latency, and the system of both. Imports no other room."""
