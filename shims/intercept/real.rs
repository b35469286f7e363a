//! The real functions behind those that this library defines.

use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::sys;

/// One real function, looked up at first use. Threads that race find the same address.
pub struct Real {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Real {
    pub const fn new(name: &'static CStr) -> Real {
        Real { name, address: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// The function's address; null if no library after this one has it. Leaves `errno` alone.
    pub fn address(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        let errno = sys::errno();
        let found = sys::next_symbol(self.name);
        sys::set_errno(errno);
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// The real function of a name, as a function pointer of the type given: `Option<fn>`.
///
/// Expands to `unsafe` code: the type must be the C library's.
macro_rules! real {
    ($real:expr, $type:ty) => {{
        let address = $real.address();
        if address.is_null() {
            None
        } else {
            // SAFETY: the C library's definition of that name has this type.
            Some(unsafe { core::mem::transmute::<*mut core::ffi::c_void, $type>(address) })
        }
    }};
}
pub(crate) use real;
