//! What this program does inside of a sandbox: single system calls.

/// Makes a system call by its number and arguments and tells the error number, or 0.
pub(crate) fn run(arguments: &[String]) {
    let numbers: Vec<libc::c_long> = arguments.iter().map(|word| word.parse().unwrap()).collect();
    let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
    // SAFETY: the tests pass numbers that are no addresses, and null for pointers, which the kernel checks.
    let result = unsafe { libc::syscall(at(0), at(1), at(2), at(3), at(4)) };
    let error = std::io::Error::last_os_error().raw_os_error().unwrap_or_default();
    println!("{}", if result < 0 { error } else { 0 });
}
