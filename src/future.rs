//! Futures over the same waits, for any executor.
//!
//! A poll checks the child and, if it still runs, registers the task's waker with the background thread
//! (`reaper.rs`). A wake-up is only a reason to check again: the status always comes from
//! [`SharedChild::try_wait`].

use crate::SharedChild;
use crate::backoff::{Backoff, LONGEST};
use crate::child::ChildRef;
use crate::reaper::{self, Wake};
use crate::stop::{self, Stop};
use crate::sys::Request;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::process::ExitStatus;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Resolves to the child's exit status: the future of [`SharedChild::wait_async`].
///
/// Any executor may poll it, from any thread, and it may move between them. Dropping it removes its registration and
/// leaves the child alone. Polled again after it was ready, it returns the same result.
///
/// # Examples
///
/// See [`SharedChild::wait_async`].
#[must_use = "futures do nothing unless they are awaited"]
#[derive(Debug)]
pub struct WaitFuture<'a>(Wait<'a>);

impl Future for WaitFuture<'_> {
    type Output = io::Result<ExitStatus>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut().0.poll(cx).map(Result::transpose) {
            Poll::Ready(Some(result)) => Poll::Ready(result),
            // Without a deadline there is a result when the wait is over.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Resolves when the child has exited or a deadline has passed: the future of [`SharedChild::wait_deadline_async`] and
/// [`SharedChild::wait_timeout_async`].
///
/// Apart from the deadline it is like [`WaitFuture`].
///
/// # Examples
///
/// See [`SharedChild::wait_deadline_async`].
#[must_use = "futures do nothing unless they are awaited"]
#[derive(Debug)]
pub struct WaitDeadlineFuture<'a>(Wait<'a>);

impl Future for WaitDeadlineFuture<'_> {
    type Output = io::Result<Option<ExitStatus>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll(cx)
    }
}

/// The state of both futures.
struct Wait<'a> {
    child: &'a SharedChild,
    /// `None` if there is no deadline, or if it is too far away for the clock.
    deadline: Option<Instant>,
    wake: Option<Wake>,
    /// The task was woken, but the child was not reapable yet: the next wake-up comes after a delay (see `Backoff`).
    is_delayed: bool,
    backoff: Backoff,
}

impl<'a> Wait<'a> {
    fn new(child: &'a SharedChild, deadline: Option<Instant>) -> Self {
        Self { child, deadline, wake: None, is_delayed: false, backoff: Backoff::new() }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<io::Result<Option<ExitStatus>>> {
        loop {
            // The child is checked after the deadline: a child that has exited by then counts as exited.
            let is_over = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            let answer = self.child.try_wait();
            if is_over || !matches!(answer, Ok(None)) {
                self.wake = None;
                return Poll::Ready(answer);
            }
            if let Some(wake) = &self.wake {
                if wake.renew(cx.waker()) {
                    return Poll::Pending;
                }
                // Woken, perhaps after the check above. After an exit that was reported too early comes a delay, and after
                // the delay another registration for the exit.
                self.wake = None;
                self.is_delayed = !self.is_delayed;
                continue;
            }
            if !self.is_delayed {
                let Some(notice) = self.child.notice() else { continue };
                self.wake = reaper::register(Some(&notice), &[], self.deadline, cx.waker());
            }
            if self.wake.is_none() {
                // No exit of this child can be reported, or it was reported too early.
                let next = Instant::now() + self.backoff.next();
                self.wake = wake_at(self.deadline.map_or(next, |deadline| deadline.min(next)), cx);
            }
            return Poll::Pending;
        }
    }
}

impl fmt::Debug for Wait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait")
            .field("child", self.child)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// Has the task woken at this time. Without a background thread this blocks for a moment and wakes the task at once:
/// nothing else can wake it, and to block the executor for a moment is better than to spin.
pub(crate) fn wake_at(at: Instant, cx: &Context<'_>) -> Option<Wake> {
    let wake = reaper::register(None, &[], Some(at), cx.waker());
    if wake.is_none() {
        crate::sync::sleep(at.saturating_duration_since(Instant::now()).min(LONGEST));
        cx.waker().wake_by_ref();
    }
    wake
}

/// Resolves at this time.
async fn sleep_until(at: Instant) {
    let mut timer: Option<Wake> = None;
    poll_fn(|cx| {
        if at <= Instant::now() {
            return Poll::Ready(());
        }
        if !timer.as_ref().is_some_and(|timer| timer.renew(cx.waker())) {
            timer = wake_at(at, cx);
        }
        Poll::Pending
    })
    .await;
}

/// The longest delay between two polls of a tree.
const LONGEST_DELAY: Duration = Duration::from_millis(100);

impl SharedChild {
    /// Waits for the child to exit without blocking a thread, and returns its status: [`wait`](Self::wait) as a future
    /// for any executor.
    ///
    /// Any number of tasks may await a child while threads wait for it and others kill it. Dropping the future leaves
    /// the child running; it can be awaited again. The future borrows the handle, so a task that must own the handle
    /// holds it in an [`Arc`](std::sync::Arc).
    ///
    /// One background thread wakes the tasks for all children. It starts when it is first needed and ends a second after
    /// it was last needed. If it cannot be started, each poll blocks for up to 20 ms instead. A child without a
    /// descriptor has a helper thread too, until it exits. A waker that blocks delays that thread and every task that it
    /// serves. To be woken by the reactor of an executor instead, register an [`ExitNotice`](crate::ExitNotice) there.
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
    /// assert!(child.wait_async().await?.success());
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
    /// With tokio, a task can kill the child that it waits for, because nothing is borrowed mutably:
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
    ///     status = child.wait_async() => status?,
    ///     () = tokio::time::sleep(Duration::from_millis(10)) => {
    ///         child.kill()?;
    ///         child.wait_async().await?
    ///     }
    /// };
    /// assert!(!status.success());
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
    /// # fn main() {}
    /// ```
    pub fn wait_async(&self) -> WaitFuture<'_> {
        WaitFuture(Wait::new(self, None))
    }

    /// Like [`wait_async`](Self::wait_async), but resolves to `Ok(None)` if the child still runs at `deadline`:
    /// [`wait_deadline`](Self::wait_deadline) as a future.
    ///
    /// It needs no timer of an executor: the background thread keeps the time too.
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
    ///     match child.wait_deadline_async(deadline).await? {
    ///         Some(status) => println!("{status}"),
    ///         None => child.kill()?,
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = run_for_a_minute_at_most;
    /// ```
    pub fn wait_deadline_async(&self, deadline: Instant) -> WaitDeadlineFuture<'_> {
        WaitDeadlineFuture(Wait::new(self, Some(deadline)))
    }

    /// Like [`wait_async`](Self::wait_async), but resolves to `Ok(None)` if the child still runs after `timeout`, counted
    /// from this call: [`wait_timeout`](Self::wait_timeout) as a future.
    ///
    /// A timeout that is too long for the clock is no limit.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::SharedChild;
    /// use std::time::Duration;
    ///
    /// async fn run_for_a_minute_at_most(child: &SharedChild) -> std::io::Result<()> {
    ///     if child.wait_timeout_async(Duration::from_secs(60)).await?.is_none() {
    ///         child.kill()?;
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = run_for_a_minute_at_most;
    /// ```
    pub fn wait_timeout_async(&self, timeout: Duration) -> WaitDeadlineFuture<'_> {
        WaitDeadlineFuture(Wait::new(self, Instant::now().checked_add(timeout)))
    }

    /// Requests the child to terminate, waits for up to `grace`, then kills it, without blocking a thread:
    /// [`stop`](Self::stop) as a future. If the child leads a [tree](Self::tree), stops the whole tree.
    ///
    /// If the future is dropped after its first poll, the child has received the request and is not killed; the grace
    /// counts for later stops of the child.
    ///
    /// The exit of the child wakes the task, as with [`wait_async`](Self::wait_async). A tree whose leader has exited
    /// while other members run is polled, with delays of up to 100 ms. On Unix each poll and kill of a tree makes system
    /// calls for each process of the machine, unless containment is complete: usually a matter of milliseconds, during
    /// which the task blocks its executor. A kill takes up to 2 s if processes are in the middle of an exec for so long
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
        let mut stop = Stop::begin(vec![ChildRef::Borrowed(self)], Request::DEFAULT, grace);
        while let Some((_, until)) = stop.pending() {
            let ended = self.ended_by(until).await;
            // The grace of a tree that cannot be scanned ends with its leader.
            if ended.is_err() {
                let _ = self.exited_by(until).await;
            }
            stop.advance(vec![ended]);
        }
        stop.result()?;
        self.exited_by(stop::killed_by()).await?;
        self.try_wait()?.ok_or_else(|| stop::has_not_ended(self))
    }

    /// Waits until the child has exited or the deadline has passed.
    async fn exited_by(&self, deadline: Option<Instant>) -> io::Result<()> {
        WaitDeadlineFuture(Wait::new(self, deadline)).await.map(drop)
    }

    /// Waits until the child or its whole tree has ended (`true`), or the deadline has passed.
    async fn ended_by(&self, deadline: Option<Instant>) -> io::Result<bool> {
        let mut delay = Duration::from_millis(1);
        while !self.has_ended_by(Some(Instant::now()))? {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(false);
            }
            if self.try_wait()?.is_none() {
                self.exited_by(deadline).await?;
                continue;
            }
            // The leader has exited and other members run, whose exits are not notified.
            let next = now + delay;
            sleep_until(deadline.map_or(next, |deadline| deadline.min(next))).await;
            delay = (delay * 2).min(LONGEST_DELAY);
        }
        Ok(true)
    }
}
