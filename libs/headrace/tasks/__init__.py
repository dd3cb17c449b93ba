"""Work that takes time: a node's table of tasks, the subprocess that runs one, and the rpcs every task service shares.

    table.py        what tasks there are and how they may change; pure
    service.py      the table, its processes and its watchers behind one lock
    servicer.py     GetTask, ListTasks, WatchTask, StopTask
    process.py      one task as a subprocess, seen from the service
    limits.py       what it may use of the machine
    descendants.py  what it started, wherever that went
    child.py        the same, seen from inside: `run_task(Request, work)`
    frames.py       how the two talk over pipes
    settings.py     which programs a node may run, and where
    records.py      what is kept of a task, in a folder of its own
    log.py          what the subprocess prints, in files of bounded size
    history.py      the course of its measures, in a file of bounded size
    stacks.py       where it is at this moment
    profiles.py     its next steps, recorded
    inspection.py   the rpcs that show all that

A service needs three lines beside its own StartTask:

    launch = Launcher("headrace_training.child", settings.data_dir, context={...})
    tasks = TaskService(TaskTable(settings.slots), launch, clock=time.time)
    class WorkersServicer(TaskServicer, ...):
        def StartTask(self, request, context): return self.tasks.start(request.name, request.epoch, request)
"""
