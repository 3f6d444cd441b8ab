//! The future of an exit, for any executor: a look, and a wish to be woken.
//!
//! Who wakes is the [`watcher`](crate::watcher), one thread for all children and tasks; or, with the feature
//! `tokio`, the reactor of the runtime (`exit/reactor.rs`). To be woken tells nothing but that it is time to look.

use crate::SharedChild;
use crate::backoff::{Backoff, LONGEST};
use crate::exit::{Ask, Readiness};
use crate::stop::{self, DYING};
use crate::watcher::tasks::{self, Answer, Wake};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::process::ExitStatus;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A future that is ready when the child has exited, with its status: from [`SharedChild::exited`].
///
/// Dropping it cancels nothing, and takes back what it has asked for. It may be polled by any executor, from any thread,
/// and be moved from one to another. Polled again after it was ready, it gives the same answer.
///
/// # Examples
///
/// See [`SharedChild::exited`].
#[must_use = "futures do nothing unless they are awaited"]
pub struct Exited<'a> {
    child: &'a SharedChild,
    waiting: Waiting,
    /// Between looks for an exit that cannot be waited for.
    pause: Backoff,
}

enum Waiting {
    Not,
    ForExit(Wake),
    OnReactor(Readiness),
    /// It was told that there is reason to look.
    Told,
    /// There is nothing to wait for: nobody can tell of the exit, or it was told of and is not to be had yet (see
    /// `Backoff`).
    ForAMoment(Wake),
}

impl<'a> Exited<'a> {
    fn of(child: &'a SharedChild) -> Self {
        Self { child, waiting: Waiting::Not, pause: Backoff::new() }
    }

    /// Sees to it that the task is woken when there is reason to look again. `Ready` if there is already: since the
    /// last look, which comes before this.
    fn arm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.waiting {
            Waiting::Not => {
                let Some(notice) = self.child.notice() else { return Poll::Ready(()) };
                if let Some(readiness) = Readiness::of(&notice, cx) {
                    self.waiting = Waiting::OnReactor(readiness);
                    return self.arm(cx);
                }
                match tasks::at_exit(&notice, cx.waker()) {
                    Answer::Will(wake) => self.waiting = Waiting::ForExit(wake),
                    Answer::CannotTell => self.pause_for_a_moment(cx),
                    Answer::NoThread => self.pause_here(cx),
                }
                Poll::Pending
            }
            Waiting::ForExit(wake) if tasks::renew(*wake, cx.waker()) => Poll::Pending,
            Waiting::OnReactor(readiness) if !readiness.is_of_this_task(cx) => {
                self.waiting = Waiting::Not;
                self.arm(cx)
            }
            Waiting::OnReactor(readiness) if readiness.poll(cx).is_pending() => Poll::Pending,
            Waiting::ForExit(_) | Waiting::OnReactor(_) => {
                self.waiting = Waiting::Told;
                Poll::Ready(())
            }
            Waiting::Told => {
                self.pause_for_a_moment(cx);
                Poll::Pending
            }
            Waiting::ForAMoment(wake) if tasks::renew(*wake, cx.waker()) => Poll::Pending,
            Waiting::ForAMoment(_) => {
                self.waiting = Waiting::Not;
                Poll::Ready(())
            }
        }
    }

    fn pause_for_a_moment(&mut self, cx: &mut Context<'_>) {
        match tasks::at(Instant::now() + self.pause.next(), cx.waker()) {
            Some(wake) => self.waiting = Waiting::ForAMoment(wake),
            None => self.pause_here(cx),
        }
    }

    /// Nobody is there who could wake the task. To hold up its executor for a moment is better than to spin.
    fn pause_here(&mut self, cx: &mut Context<'_>) {
        self.waiting = Waiting::Not;
        crate::sync::sleep(self.pause.next());
        cx.waker().wake_by_ref();
    }

    /// Said after a poll that was pending.
    fn has_paused_here(&self) -> bool {
        matches!(self.waiting, Waiting::Not)
    }

    fn stop_waiting(&mut self) {
        if let Waiting::ForExit(wake) | Waiting::ForAMoment(wake) =
            std::mem::replace(&mut self.waiting, Waiting::Not)
        {
            tasks::forget(wake);
        }
    }
}

impl Future for Exited<'_> {
    type Output = io::Result<ExitStatus>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            if let Some(answer) = this.child.try_wait().transpose() {
                this.stop_waiting();
                return Poll::Ready(answer);
            }
            if this.arm(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Exited<'_> {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}

impl fmt::Debug for Exited<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exited").field("child", self.child).finish_non_exhaustive()
    }
}

/// A future that is ready when the child has exited, or at a deadline: from [`SharedChild::exited_deadline`].
///
/// Apart from that, it is like [`Exited`].
///
/// # Examples
///
/// See [`SharedChild::exited_deadline`].
#[must_use = "futures do nothing unless they are awaited"]
#[derive(Debug)]
pub struct ExitedDeadline<'a> {
    exited: Exited<'a>,
    deadline: Until,
}

impl Future for ExitedDeadline<'_> {
    type Output = io::Result<Option<ExitStatus>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if !this.deadline.has_come() {
            if let Poll::Ready(answer) = Pin::new(&mut this.exited).poll(cx) {
                this.deadline.stop_waiting();
                return Poll::Ready(answer.map(Some));
            }
            // Who has held up the executor comes back at once, and sees then what time it is.
            if this.exited.has_paused_here() || Pin::new(&mut this.deadline).poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        // A look after the deadline: so who has exited by then is said to have.
        this.exited.stop_waiting();
        this.deadline.stop_waiting();
        Poll::Ready(this.exited.child.try_wait())
    }
}

impl SharedChild {
    /// Waits for the exit without blocking a thread: the future of [`wait`](Self::wait), for any executor.
    ///
    /// Any number of tasks may await a child, while threads wait for it, and others kill it. Dropping the future
    /// cancels nothing: the child runs on, and can be awaited again. The future borrows the handle, so a task that owns
    /// the handle has it in an [`Arc`](std::sync::Arc).
    ///
    /// One background thread wakes the tasks for all children. It is started when it is first needed, and ends a second
    /// after it is not needed any more. If it cannot be started, each poll blocks for up to 20 ms instead. (A child that
    /// has no descriptor has a helper thread as well, which it keeps until it exits.) A waker that blocks holds up
    /// that thread, and with it all other tasks that it wakes.
    ///
    /// With the feature `tokio`, on Linux, a task of a multi-threaded tokio runtime is woken by that runtime's reactor
    /// instead, which spares the way over that thread. (Of a runtime whose I/O is not enabled tokio says so by a panic,
    /// once, which is caught here, but seen by a panic hook; where panics abort, enable it.) As with all that tokio
    /// wakes, some worker has to be free.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::SharedChild, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// # smol_like::block_on(async {
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// assert!(child.exited().await?.success());
    /// # Ok(())
    /// # })
    /// # }
    /// # mod smol_like {
    /// #     pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    /// #         struct Unpark(std::thread::Thread);
    /// #         impl std::task::Wake for Unpark {
    /// #             fn wake(self: std::sync::Arc<Self>) { self.0.unpark(); }
    /// #         }
    /// #         let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    /// #         let mut future = std::pin::pin!(future);
    /// #         loop {
    /// #             let mut cx = std::task::Context::from_waker(&waker);
    /// #             if let std::task::Poll::Ready(answer) = future.as_mut().poll(&mut cx) { return answer; }
    /// #             std::thread::park();
    /// #         }
    /// #     }
    /// # }
    /// ```
    ///
    /// With tokio, whoever waits can kill meanwhile, since nothing is borrowed mutably:
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
    /// # fn main() -> std::io::Result<()> {
    /// use shared_child::SharedChild;
    /// use std::process::Command;
    /// use std::time::Duration;
    ///
    /// # tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
    /// let child = SharedChild::spawn(Command::new("sleep").arg("1000"))?;
    /// let status = tokio::select! {
    ///     status = child.exited() => status?,
    ///     () = tokio::time::sleep(Duration::from_millis(10)) => {
    ///         child.kill()?;
    ///         child.exited().await?
    ///     }
    /// };
    /// assert!(!status.success());
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
    /// # fn main() {}
    /// ```
    pub fn exited(&self) -> Exited<'_> {
        Exited::of(self)
    }

    /// Like [`exited`](Self::exited), but until `deadline` at the latest: `Ok(None)` if the child is still running
    /// then. The future of [`wait_deadline`](Self::wait_deadline).
    ///
    /// It needs no runtime's timer: the background thread tells the time as well.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::SharedChild;
    /// use std::time::{Duration, Instant};
    ///
    /// async fn run_for_a_minute_at_most(child: &SharedChild) -> std::io::Result<()> {
    ///     let deadline = Instant::now() + Duration::from_secs(60);
    ///     match child.exited_deadline(deadline).await? {
    ///         Some(status) => println!("{status}"),
    ///         None => child.kill()?,
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = run_for_a_minute_at_most;
    /// ```
    pub fn exited_deadline(&self, deadline: Instant) -> ExitedDeadline<'_> {
        ExitedDeadline { exited: self.exited(), deadline: Until { at: deadline, timer: None } }
    }

    /// The future of [`stop`](Self::stop): requests the child to terminate, waits for up to `grace`, then kills it. If
    /// it leads a [tree](Self::tree), stops the whole tree.
    ///
    /// If the future is dropped after it was polled, the child has been requested, and is not killed; the grace counts
    /// for later stops of the child.
    ///
    /// A child is waited for as by [`exited`](Self::exited). When the leader of a tree has ended and other members have
    /// not, the tree is polled, with pauses of up to 100 ms. On Unix each poll and kill of a tree makes system calls
    /// for each process of the machine, unless containment is complete: usually a matter of milliseconds, during which
    /// the task holds up its executor. A kill takes up to 2 s if processes are in the middle of an exec for so long
    /// (see [`Tree::kill`](crate::Tree::kill)). If that matters, call [`stop`](Self::stop) on a thread that may block.
    ///
    /// # Errors
    ///
    /// Those of [`stop`](Self::stop).
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::SharedChild;
    /// use std::time::Duration;
    ///
    /// async fn end(child: &SharedChild) -> std::io::Result<()> {
    ///     let status = child.stop_async(Duration::from_secs(5)).await?;
    ///     println!("it ended with {status}");
    ///     Ok(())
    /// }
    /// # let _ = end;
    /// ```
    pub async fn stop_async(&self, grace: Duration) -> io::Result<ExitStatus> {
        // (Of errors see `stop`.)
        if !self.is_gone_by(Some(Instant::now())).unwrap_or(false) {
            let deadline = stop::begin(self, Ask::DEFAULT, grace);
            if self.gone_by(deadline).await.is_err() {
                let _ = self.exited_by(deadline).await;
            }
        }
        if !self.is_known_to_be_gone() {
            self.kill_all()?;
            self.gone_by(Instant::now().checked_add(DYING)).await?;
        }
        self.exited_by(stop::killed_by()).await?;
        self.try_wait()?.ok_or_else(|| stop::has_not_ended(self))
    }

    /// Waits until the child has exited, or until then.
    async fn exited_by(&self, deadline: Option<Instant>) -> io::Result<()> {
        match deadline {
            Some(deadline) => self.exited_deadline(deadline).await.map(drop),
            None => self.exited().await.map(drop),
        }
    }

    /// Waits until all that is to be stopped has ended, or until then.
    async fn gone_by(&self, deadline: Option<Instant>) -> io::Result<()> {
        let mut pause = Duration::from_millis(1);
        while !self.is_gone_by(Some(Instant::now()))? {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                break;
            }
            if self.try_wait()?.is_none() {
                self.exited_by(deadline).await?;
                continue;
            }
            // The leader has ended, and others of the tree have not. Nobody tells of their end.
            let until = now + pause;
            Until { at: deadline.map_or(until, |deadline| deadline.min(until)), timer: None }.await;
            pause = (pause * 2).min(LOOK);
        }
        Ok(())
    }
}

/// How often to look whether a tree is empty, at least.
const LOOK: Duration = Duration::from_millis(100);

/// Ready at that time.
#[derive(Debug)]
struct Until {
    at: Instant,
    timer: Option<Wake>,
}

impl Until {
    fn has_come(&self) -> bool {
        self.at <= Instant::now()
    }

    fn stop_waiting(&mut self) {
        if let Some(timer) = self.timer.take() {
            tasks::forget(timer);
        }
    }
}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let left = this.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            this.stop_waiting();
            return Poll::Ready(());
        }
        if this.timer.is_some_and(|timer| tasks::renew(timer, cx.waker())) {
            return Poll::Pending;
        }
        this.timer = tasks::at(this.at, cx.waker());
        if this.timer.is_none() {
            // No thread, as above.
            crate::sync::sleep(left.min(LONGEST));
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}
