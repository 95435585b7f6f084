"""`vconv web`: a page for voice conversion, served to this machine only. Needs the extra `web`."""
