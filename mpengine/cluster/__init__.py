"""Engines whose workers are on the nodes of a cluster. Made by `mpengine.connect`.

    here                                                          a node: a Dask worker, or an actor on a Ray node
    ────                                                          ───────────────────────────────────────────────
    ClusterEngine.dispatch ─▶ ClusterDispatcher ─ event ─▶ ClusterLedger (pure)
                                   │    ▲                  Agent ─ dispatch ─▶ Engine ─▶ worker: call.run_call
                                   ▼    │                    ▲ │                 │
                                  NodeLink ── give ──────────┘ │                 │
                                           ◀─ take ────────────┴──── end ◀───────┘

Every node has an ordinary local engine, so whatever can happen to a job in a worker is dealt with there, as it is here:
timeouts, kills, memory limits, crashes. What is added is the way there and back, over the public client of the cluster
(`driver.Driver`), and the loss of a node.

Rules:
1. Who runs what is decided here, and only here: the cluster carries messages, and repeats no job by itself.
2. One attempt of a job is sent to one node. Whether another follows is the ledger's to decide, by the job's own
   `retries`, `retry_on` and `backoff`, which never leave this process.
3. A node is sent what it can begin about now: for each of its slots one job, or of short ones as many as last for
   `ledger.AHEAD_S`. What was sent may have been started. So if a node is lost, then what it had been sent is lost, too,
   unless its owner allows another attempt; and nothing else is.
4. Messages are numbered in both directions, so that one that is sent twice, after an interruption of the line, is
   taken in once.
5. A node whose client is silent for `agent.LEASE_S` ends its jobs; a client whose node is silent for `nodes.SILENCE_S`
   counts it as lost. Nobody waits for ever.
"""
