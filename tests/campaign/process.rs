//! The other processes of a campaign: this test program again, with one task to do, to be killed, limited or let be.
//!
//! A test file that uses this has an ignored test `child`, which does what [`task`] says with what [`given`] says, and
//! answers with lines of [`say`].

#![allow(dead_code)] // each campaign takes what it needs of this

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// How a line of the child's begins that is meant for the parent.
const MARK: &str = "SAY ";

/// What the child is to do.
pub(crate) fn task() -> String {
    given("TASK")
}

/// A value the parent gave.
pub(crate) fn given(name: &str) -> String {
    env::var(format!("VELLUM_CHILD_{name}")).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A line that the parent waits for, past the test harness.
pub(crate) fn say(what: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{MARK}{what}").unwrap();
    out.flush().unwrap();
}

/// Waits until the parent [`go_on`](Process::go_on)s.
pub(crate) fn wait() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// A child to be.
pub(crate) struct Task {
    program: Vec<String>,
    command: Vec<(String, String)>,
}

impl Task {
    pub(crate) fn new(task: &str) -> Self {
        let exe = env::current_exe().unwrap().to_str().unwrap().to_string();
        let args = ["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"];
        let program = std::iter::once(exe).chain(args.map(String::from)).collect();
        Task { program, command: Vec::new() }.give("TASK", task)
    }

    pub(crate) fn give(mut self, name: &str, value: impl ToString) -> Self {
        self.command.push((format!("VELLUM_CHILD_{name}"), value.to_string()));
        self
    }

    pub(crate) fn give_path(self, name: &str, path: &Path) -> Self {
        self.give(name, path.to_str().unwrap())
    }

    /// Sets an environment variable that is not ours.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.push((name.into(), value.into()));
        self
    }

    /// Runs in another program that takes a command, such as `unshare`.
    pub(crate) fn within(mut self, program: &[&str]) -> Self {
        self.program.splice(0..0, program.iter().map(|word| word.to_string()));
        self
    }

    /// Lets `sh` do something first: a limit, a signal to be ignored, a mount. If it fails the child fails.
    pub(crate) fn after(self, script: &str) -> Self {
        self.within(&["sh", "-c", &format!("{{ {script}; }} && exec \"$0\" \"$@\"")])
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).envs(self.command.iter().map(|(name, value)| (name, value)));
        // What a planted fault makes a child say is long enough without it.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).env("RUST_BACKTRACE", "0");
        command
    }

    pub(crate) fn start(&self) -> Process {
        Process::of(self.command())
    }

    /// Runs it to its end: its last answer, or that it failed.
    pub(crate) fn answer(&self) -> Result<String, String> {
        self.start().answer()
    }
}

pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Process { stdin: child.stdin.take(), child, lines }
    }

    /// What it says next, or `None` when it has ended. A line cut off by a kill is none.
    pub(crate) fn said(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some(what) = line.strip_prefix(MARK).and_then(|rest| rest.strip_suffix('\n')) {
                return Some(what.into());
            }
            line.clear();
        }
        None
    }

    /// Lets a child go on that [`wait`]s.
    pub(crate) fn go_on(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Kills it at once; what it said before that.
    pub(crate) fn kill(mut self) -> Option<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.said()).last()
    }

    /// Waits for its end: its last answer, or that it failed.
    pub(crate) fn answer(mut self) -> Result<String, String> {
        self.stdin = None;
        let last = std::iter::from_fn(|| self.said()).last();
        let status = self.child.wait().unwrap();
        match last {
            Some(last) if status.success() => Ok(last),
            last => Err(format!("the child ended with {status}; it said {last:?}")),
        }
    }
}
