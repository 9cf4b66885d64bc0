"""Static checks of the Kubernetes manifests in `k8s/`, without a cluster.

`render` renders the bundles with kustomize and `objects` finds pods and labels in the result.
The checks are in `links`, `pods`, `policies`, `server`, `monitoring` and `files`; `checks` lists
them by name. A check takes the objects of a bundle (or the texts of the files) and yields one line
per problem. `mistakes` lists the mistakes that each check must report.
"""
