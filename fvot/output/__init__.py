"""Series for ParaView, pictures and movies."""
