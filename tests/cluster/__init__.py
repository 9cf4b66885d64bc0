"""The manifests, the images and the pipelines on a real Kubernetes; `make test-cluster`.

The tests need a cluster that they may use, and are skipped without one: KUBECONFIG names it, and
C3D_TEST_CLUSTER=yes allows it. `kube` runs kubectl, `images` brings the images to the nodes, `tree`
changes copies of `k8s/`, `documents` runs the blocks of the documents, `serving` makes models,
videos and the pod of the clients, and `pipeline_pods` runs compiled pipelines without Kubeflow.
Each file of tests has namespaces of its own: they run at the same time.
"""
