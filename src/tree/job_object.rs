//! Windows: a job object holds the tree together.
//!
//! The child is created suspended, joins the job and is resumed, so all its descendants are born in the job. The job does
//! not permit a process to leave. A process may be in several nested jobs, so a tree within a tree is in both.
//!
//! std returns no handle of the child's first thread, so this searches the list of all threads for it. A child that
//! cannot be resumed has executed nothing, and is terminated. Until the child has begun, every job kills when it is
//! closed, so a child whose parent dies in the meantime is killed too. (A gap is left between the creation of the child
//! and its joining the job. Only a list of jobs for CreateProcess would close the gap, and std does not offer that.)
//!
//! The system does not guarantee that a job's messages arrive. So this queries the job for its members, and a wait
//! blocks on one of them. A process ID only serves to open a handle, and the membership of the handle is checked after
//! that, because the ID may have had another owner when it was opened.
//!
//! Sources: Job Objects, Nested Jobs, JOBOBJECT_BASIC_LIMIT_INFORMATION, Process Creation Flags and Taking a
//! Snapshot of the Win32 documentation.

use super::operations::{Operations, Survivor};
use super::{Containment, Leader, Mechanism, Spawned, Tree, Wanted};
use crate::backoff::Backoff;
use crate::sys::{KillWithParent, Request, is_signalled, wait_for_any};
use crate::usage::Usage;
use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, IntoRawHandle, OwnedHandle};
use std::os::windows::process::CommandExt;
use std::process::{Child, Command};
use std::time::Instant;
use windows_sys::Win32::Foundation::{
    ERROR_INVALID_PARAMETER, ERROR_MORE_DATA, ERROR_NO_MORE_FILES, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First, Thread32Next,
};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, IsProcessInJob, JOB_OBJECT_LIMIT,
    JOB_OBJECT_LIMIT_ACTIVE_PROCESS, JOB_OBJECT_LIMIT_BREAKAWAY_OK,
    JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK,
    JOBOBJECT_BASIC_ACCOUNTING_INFORMATION, JOBOBJECT_BASIC_PROCESS_ID_LIST,
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JOBOBJECTINFOCLASS, JobObjectBasicAccountingInformation,
    JobObjectBasicProcessIdList, JobObjectExtendedLimitInformation, QueryInformationJobObject,
    SetInformationJobObject, TerminateJobObject,
};
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_PROCESS_GROUP, CREATE_SUSPENDED, GetProcessIdOfThread, OpenProcess, OpenThread,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, ResumeThread,
    THREAD_QUERY_LIMITED_INFORMATION, THREAD_SUSPEND_RESUME,
};

/// The options that only some systems offer.
#[derive(Debug, Clone, Default)]
pub(crate) struct System {
    /// The creation flags that the caller has set.
    pub(crate) creation_flags: u32,
}

/// Spawns a tree, or a single child that needs more than [`Command::spawn`].
pub(crate) fn spawn(wanted: &Wanted, command: &mut Command) -> io::Result<Spawned> {
    let is_tree = wanted.tree;
    let own_flags = wanted.system.creation_flags;
    if !is_tree && !wanted.kill_with_parent {
        // If the caller has set no flags, the flags of the command stay.
        if own_flags != 0 {
            command.creation_flags(own_flags);
        }
        let can_be_requested = Request::reaches(own_flags);
        return Ok(Spawned { can_be_requested, ..Spawned::single((command.spawn()?, None)) });
    }
    let job = Job::create(wanted)?;
    let flags = own_flags | if is_tree { CREATE_NEW_PROCESS_GROUP } else { 0 };
    command.creation_flags(flags | CREATE_SUSPENDED);
    let spawned = command.spawn();
    // Later spawns of the command might not resume the child.
    command.creation_flags(own_flags);
    // A caller that has set CREATE_SUSPENDED resumes the child itself.
    let (child, process) = start(spawned?, &job, own_flags & CREATE_SUSPENDED == 0)?;
    let can_be_requested = Request::reaches(flags);
    if is_tree {
        let spawned = Spawned::single((child, None)).leading(job, &Jobs);
        return Ok(Spawned { can_be_requested, ..spawned });
    }
    let kill_with_parent = KillWithParent::by(job);
    Ok(Spawned { kill_with_parent, can_be_requested, ..Spawned::single((child, Some(process))) })
}

/// Requests a console group to terminate. Returns whether the group can have received the request.
///
/// The group has the ID of its leader. The leader's handle is borrowed here and keeps the ID taken, even after the
/// leader has exited. The lock is not held, because another process, the console's, handles the request.
pub(crate) fn request(leader: &Leader, request: Request) -> io::Result<bool> {
    let group = leader.with_child(|child| child.id());
    Ok(request.send(group))
}

/// Resumes a suspended child as a member of the job. On failure, kills and reaps the child. Returns another handle of it.
fn start(mut child: Child, job: &Job, to_be_resumed: bool) -> io::Result<(Child, OwnedHandle)> {
    let start = || {
        job.admit(&child)?;
        let process = child.as_handle().try_clone_to_owned()?;
        if to_be_resumed {
            resume(&child)?;
        }
        job.has_begun()?;
        Ok(process)
    };
    let started: io::Result<OwnedHandle> = start();
    if started.is_err() {
        let _ = job.kill();
        // The child might be outside the job, so kill the child itself. A wait for a child that cannot be killed might
        // not end.
        if child.kill().is_ok() {
            let _ = child.wait();
        }
    }
    started.map(|process| (child, process))
}

struct Jobs;

impl Operations for Jobs {
    fn kill_each(&self, trees: &[&Tree]) -> Vec<io::Result<()>> {
        trees.iter().map(|tree| tree.container.kill()).collect()
    }

    fn kill_at_once(&self, tree: &Tree) -> bool {
        tree.container.kill().is_err()
    }

    fn request_each(&self, trees: &[&Tree], request: Request) -> Vec<io::Result<bool>> {
        trees.iter().map(|tree| self::request(&tree.leader, request)).collect()
    }

    fn wait_each_empty(&self, trees: &[&Tree], deadline: Option<Instant>) -> Vec<io::Result<bool>> {
        trees.iter().map(|tree| tree.container.wait_empty(deadline)).collect()
    }

    fn survivors(&self, trees: &[&Tree]) -> Vec<io::Result<Option<Survivor>>> {
        let is_populated = |tree: &Tree| tree.container.active().unwrap_or(0) > 0;
        trees.iter().map(|tree| Ok(is_populated(tree).then_some(Survivor))).collect()
    }

    fn processes(&self, tree: &Tree) -> io::Result<Vec<u32>> {
        tree.container.ids()
    }

    fn containment(&self, _: &Tree) -> Containment {
        Containment::Complete { by: Mechanism::JobObject }
    }

    /// Returns `None`: a job counts committed memory and a process resident memory, so the job's counters are not used.
    fn usage(&self, _: &Tree) -> Option<Usage> {
        None
    }

    fn outlives_the_handle(&self, tree: &Tree) -> bool {
        tree.container.kills_on_close()
    }

    fn leader_is_reaped(&self, _: &Tree) {}

    fn done(&self, _: &Tree) {}
}

/// A job without a name, whose handle no child inherits. Dropping it kills no process.
pub(crate) struct Job {
    handle: OwnedHandle,
    limits: JOB_OBJECT_LIMIT,
}

impl Job {
    /// Blocks until no member is left (`true`), or until the deadline.
    fn wait_empty(&self, deadline: Option<Instant>) -> io::Result<bool> {
        let mut pause = Backoff::new();
        while self.active()? > 0 {
            // The tree is not empty while one member lives.
            let mut members = self.ids()?.into_iter().filter_map(|id| self.member(id));
            let goes_on = match members.find(lives) {
                Some(member) => {
                    pause = Backoff::new();
                    wait_for_any(&[member.as_handle()], deadline)?
                }
                // The members that are left cannot be opened, or have exited and still count.
                None => pause.sleep(deadline),
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn create(wanted: &Wanted) -> io::Result<Self> {
        // SAFETY: without attributes, and without a name; the handle is new.
        let handle = unsafe { opened(CreateJobObjectW(std::ptr::null(), std::ptr::null())) }
            .map_err(|error| explain(error, "cannot create a job object"))?;
        let mut limits = 0;
        if wanted.kill_with_parent {
            limits |= JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
        }
        if !wanted.tree {
            // The processes that a single child starts may outlive this process.
            limits |= JOB_OBJECT_LIMIT_BREAKAWAY_OK | JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK;
        }
        let job = Self { handle, limits };
        job.set_limits(limits | JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, 0)?;
        Ok(job)
    }

    /// Notes that the child has begun: from now on a closed job kills only if the options require it.
    fn has_begun(&self) -> io::Result<()> {
        if self.kills_on_close() { Ok(()) } else { self.set_limits(self.limits, 0) }
    }

    fn raw(&self) -> HANDLE {
        self.handle.as_raw_handle()
    }

    fn kills_on_close(&self) -> bool {
        self.limits & JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE != 0
    }

    fn admit(&self, child: &Child) -> io::Result<()> {
        // SAFETY: both handles are open for as long as they are borrowed.
        if unsafe { AssignProcessToJobObject(self.raw(), child.as_raw_handle()) } == 0 {
            return Err(last_error("cannot put the child into a job object"));
        }
        Ok(())
    }

    fn kill(&self) -> io::Result<()> {
        // The limit comes first, so that no process is added. A member that is terminated in the middle of a spawn
        // would leave the new process behind, suspended for ever. The member counts until its last thread has ended, so
        // the new process exceeds the limit. The limit stays, since the tree is at its end. An error does not prevent
        // the kill.
        let _ = self.set_limits(self.limits | JOB_OBJECT_LIMIT_ACTIVE_PROCESS, 1);
        // `Child::kill` of std has the same exit code.
        // SAFETY: the handle is open for as long as it is borrowed.
        if unsafe { TerminateJobObject(self.raw(), 1) } == 0 {
            return Err(last_error("cannot terminate the job object of a tree"));
        }
        Ok(())
    }

    fn set_limits(&self, flags: JOB_OBJECT_LIMIT, active_processes: u32) -> io::Result<()> {
        let mut information = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        information.BasicLimitInformation.LimitFlags = flags;
        information.BasicLimitInformation.ActiveProcessLimit = active_processes;
        // SAFETY: the handle is open for as long as it is borrowed. The struct is that of this class, has this size, and
        // outlives the call.
        let set = unsafe {
            SetInformationJobObject(
                self.raw(),
                JobObjectExtendedLimitInformation,
                (&raw const information).cast(),
                size_of_val(&information) as u32,
            )
        };
        if set == 0 { Err(last_error("cannot set the limits of a job object")) } else { Ok(()) }
    }

    /// Returns the number of members.
    fn active(&self) -> io::Result<u32> {
        let mut information = JOBOBJECT_BASIC_ACCOUNTING_INFORMATION::default();
        let size = size_of_val(&information);
        // SAFETY: the struct is that of this class, and has this size.
        unsafe {
            self.query(JobObjectBasicAccountingInformation, (&raw mut information).cast(), size)
        }
        .map_err(|error| explain(error, "cannot count the processes of a job object"))?;
        Ok(information.ActiveProcesses)
    }

    /// Returns the process IDs of the members, and of the members of nested jobs.
    fn ids(&self) -> io::Result<Vec<u32>> {
        const HEAD: usize =
            offset_of!(JOBOBJECT_BASIC_PROCESS_ID_LIST, ProcessIdList) / size_of::<usize>();
        let mut room = 16;
        loop {
            let mut list = vec![0_usize; HEAD + room];
            let size = size_of_val(&*list);
            let start = list.as_mut_ptr();
            // SAFETY: the buffer has this size and the layout of the list of this class: some words, then IDs, which
            // are words.
            let answer = unsafe { self.query(JobObjectBasicProcessIdList, start.cast(), size) };
            match answer {
                Ok(()) => {
                    // SAFETY: the buffer has room for a list of at least one ID, is aligned for it (words are its largest
                    // fields), and was filled with integers.
                    let head = unsafe { start.cast::<JOBOBJECT_BASIC_PROCESS_ID_LIST>().read() };
                    let ids = list[HEAD..].iter().take(head.NumberOfProcessIdsInList as usize);
                    // Process IDs have 32 bits.
                    return Ok(ids.map(|id| *id as u32).collect());
                }
                Err(error) if error.raw_os_error() == Some(ERROR_MORE_DATA as i32) => room *= 2,
                Err(error) => {
                    return Err(explain(error, "cannot list the processes of a job object"));
                }
            }
        }
    }

    /// # Safety
    ///
    /// `information` points to `size` writable bytes, which are the struct of this class.
    unsafe fn query(
        &self,
        class: JOBOBJECTINFOCLASS,
        information: *mut c_void,
        size: usize,
    ) -> io::Result<()> {
        let length = std::ptr::null_mut();
        // SAFETY: the handle is open for as long as it is borrowed; the caller guarantees the rest.
        let answered = unsafe {
            QueryInformationJobObject(self.raw(), class, information, size as u32, length)
        };
        if answered == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Opens the process with this ID, if it is a member and this process has permission.
    fn member(&self, id: u32) -> Option<OwnedHandle> {
        const ACCESS: u32 = PROCESS_SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION;
        // SAFETY: integers only; the handle is new, and not inherited.
        let process = unsafe { opened(OpenProcess(ACCESS, 0, id)) }.ok()?;
        let mut is_member = 0;
        // SAFETY: both handles are open for as long as they are borrowed, and the answer outlives the call.
        let answered =
            unsafe { IsProcessInJob(process.as_raw_handle(), self.raw(), &raw mut is_member) };
        (answered != 0 && is_member != 0).then_some(process)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Closing the handle after this must not kill. (The end of this process closes the handle without this drop.)
        let limits = self.limits & !JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
        if self.kills_on_close() && self.set_limits(limits, 0).is_err() {
            // After an error the handle stays open: the members then die with this process, and not before.
            let _ = self.handle.try_clone().map(IntoRawHandle::into_raw_handle);
        }
    }
}

fn lives(process: &OwnedHandle) -> bool {
    is_signalled(process.as_handle()).is_ok_and(|exited| !exited)
}

/// Resumes a child that was created suspended.
fn resume(child: &Child) -> io::Result<()> {
    let id = child.id();
    let mut resumed = false;
    for thread in threads_of(id)? {
        resumed |= resume_thread(thread, id)?;
    }
    if resumed {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("cannot resume child process {id}: the system lists no thread of it"),
    ))
}

/// Returns the IDs of a process's threads. Another program may have added threads to the first one.
fn threads_of(process: u32) -> io::Result<Vec<u32>> {
    // SAFETY: integers only; the handle is new.
    let snapshot = unsafe { opened(CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0)) }
        .map_err(|error| explain(error, "cannot resume the child: no snapshot of the threads"))?;
    let mut entry = THREADENTRY32::default();
    let mut threads = Vec::new();
    let mut next: unsafe extern "system" fn(HANDLE, *mut THREADENTRY32) -> _ = Thread32First;
    loop {
        entry.dwSize = size_of::<THREADENTRY32>() as u32;
        // SAFETY: the snapshot is open. The entry has its size set, and outlives the call.
        if unsafe { next(snapshot.as_raw_handle(), &raw mut entry) } == 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(ERROR_NO_MORE_FILES as i32) {
                return Ok(threads);
            }
            return Err(explain(error, "cannot resume the child: no list of the threads"));
        }
        if entry.th32OwnerProcessID == process {
            threads.push(entry.th32ThreadID);
        }
        next = Thread32Next;
    }
}

/// Resumes a thread of the process. Returns whether the thread exists: it may have ended, and another process's thread
/// may have its ID.
fn resume_thread(id: u32, process: u32) -> io::Result<bool> {
    const ACCESS: u32 = THREAD_SUSPEND_RESUME | THREAD_QUERY_LIMITED_INFORMATION;
    // SAFETY: integers only; the handle is new, and not inherited.
    let thread = match unsafe { opened(OpenThread(ACCESS, 0, id)) } {
        Ok(thread) => thread,
        Err(error) if error.raw_os_error() == Some(ERROR_INVALID_PARAMETER as i32) => {
            return Ok(false);
        }
        Err(error) => {
            return Err(explain(error, "cannot resume the child: its thread cannot be opened"));
        }
    };
    // The open handles keep the IDs of the process and of the thread taken.
    // SAFETY: the handle is open.
    if unsafe { GetProcessIdOfThread(thread.as_raw_handle()) } != process {
        return Ok(false);
    }
    // Resuming a thread that runs does nothing.
    // SAFETY: the handle is open.
    if unsafe { ResumeThread(thread.as_raw_handle()) } == u32::MAX {
        return Err(last_error("cannot resume the child"));
    }
    Ok(true)
}

/// Returns the handle that a call has opened, or the error of the call.
///
/// # Safety
///
/// Nothing else owns the handle.
unsafe fn opened(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the caller guarantees the rest.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

fn last_error(what: &str) -> io::Error {
    explain(io::Error::last_os_error(), what)
}

fn explain(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn suspended() -> (Child, OwnedHandle) {
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        let child = command.creation_flags(CREATE_SUSPENDED).spawn().expect("to spawn");
        let process = child.as_handle().try_clone_to_owned().expect("a handle");
        (child, process)
    }

    #[test]
    fn child_that_cannot_join_the_job_is_killed() {
        let (child, process) = suspended();
        let file = File::open(std::env::current_exe().expect("a path")).expect("a file");
        let no_job = Job { handle: file.into(), limits: 0 };
        let error = start(child, &no_job, true).unwrap_err();
        assert!(error.to_string().contains("job object: "), "{error}");
        assert!(!lives(&process));
    }

    #[test]
    fn child_that_cannot_be_resumed_is_killed() {
        let job = Job::create(&Wanted { tree: true, ..Wanted::default() }).expect("a job");
        let (mut child, process) = suspended();
        child.kill().expect("to kill");
        child.wait().expect("to wait");
        assert!(resume(&child).unwrap_err().to_string().contains("no thread"));
        start(child, &job, true).unwrap_err();
        assert!(!lives(&process));
        assert_eq!(job.active().expect("an answer"), 0);
    }
}
