"""The node graph that people know from ComfyUI: read it, check it, run it node by node, draw it, write it back.

Stands above the pipeline. In: a workflow file of ComfyUI (its UI format or its API format), or a finished `Result`.
Out: a `Workflow`, which runs with this package, becomes a picture, or goes back to ComfyUI. Nothing in a file is ever
executed, and the file names in it stay inside the folders given for them.
"""

from wan_tutorial.workflow.comfyui_json import read_workflow
from wan_tutorial.workflow.graph import Finding, Node, Workflow

__all__ = ["Finding", "Node", "Workflow", "read_workflow"]
