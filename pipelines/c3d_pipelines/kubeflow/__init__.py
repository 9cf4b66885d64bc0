"""The pipelines as Kubeflow has them: tasks, pods, and the YAML that they compile to."""
