"""A kernel and its client, in a process of their own: `python -m tests.clients.kernel`, told what to do line by line.

A line on stdin is a JSON list: ["execute", code], ["interrupt"], or ["reply"], which is answered by a line on stdout:
how the cell that was executed has ended, and what it has printed.
"""

import json
import sys
from typing import Any

from jupyter_client.manager import start_new_kernel

from tests.support import WAIT_S


def reply_of(client: Any, cell: str) -> dict[str, Any]:
    reply = client.get_shell_msg(timeout=WAIT_S)
    while reply["parent_header"].get("msg_id") != cell:
        reply = client.get_shell_msg(timeout=WAIT_S)
    printed = ""
    while True:
        message = client.get_iopub_msg(timeout=WAIT_S)
        if message["parent_header"].get("msg_id") != cell:
            continue
        if message["msg_type"] == "stream":
            printed += message["content"]["text"]
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
    content = reply["content"]
    return {"status": content["status"], "error": content.get("ename"), "printed": printed}


def main() -> None:
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        cell = ""
        for line in sys.stdin:
            match json.loads(line):
                case ["execute", code]:
                    cell = client.execute(code)
                case ["interrupt"]:
                    manager.interrupt_kernel()
                case ["reply"]:
                    print(json.dumps(reply_of(client, cell)), flush=True)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)


if __name__ == "__main__":
    main()
