"""Import paths and signatures of release 0.1.0, for its compiled pipelines that run scheduled.

They stay for one release. The steps themselves are in :mod:`c3d_pipelines.run`.
"""
