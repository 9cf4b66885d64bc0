"""What can be known of `k8s/` without a cluster: rendered, checked, and the checks checked.

`bundle` renders, `objects` finds its way in what came out, `checks` lists every check, `mutations`
lists what must not pass. A check takes objects (or source texts) and gives the problems as lines.
"""
