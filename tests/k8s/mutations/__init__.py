"""The table of mistakes: each is made on purpose, and one check must say so in its words."""

from __future__ import annotations

from k8s.mutations import files, links, monitoring, pods, server

OBJECTS = (
    *links.SCHEMAS,
    *links.SELECTION,
    *links.REFERENCES,
    *pods.INSIDE,
    *pods.SAFETY,
    *pods.ROOM,
    *server.SERVER_SETTINGS,
    *server.AGREEMENT,
    *server.TIMES,
    *monitoring.QUERIES,
    *monitoring.ALERTS,
)
TEXTS = files.FILES
