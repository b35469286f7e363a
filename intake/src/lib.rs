//! From a task to an action: which files a compile reads, what they hold, and the names (keys, digests,
//! input roots) that follow from that. It runs inside the initiator, where the files are.
//!
//! Everything here blocks and is `Send + Sync`; callers use threads of their own. It knows neither sockets nor
//! slots, prints nothing, and reads no variable of its own environment: what it needs comes in by argument.
//!
//! The way of a task through the modules:
//!
//! 1. [`toolchain`] says what the compiler *is* (identity, files, the tree that every action starts from);
//! 2. [`recall`] looks whether the same command has run over the same files before (near manifests);
//! 3. [`observe`] reads what a traced compile looked at, after a local run or inside [`finder`];
//! 4. [`finder`] finds the inputs of a compile that has not run yet; [`ScannedInputs`] does so from directives alone;
//! 5. [`layout`] builds the Merkle tree of the file system as the compiler sees it;
//! 6. [`action`] puts Command and Action together with the list of blobs to upload.
//!
//! After a compile that was sent away, [`verify`] holds the depfile against what the scan had found.
//!
//! What runs inside a compile and shows in no trace (libraries, procedural macros) is for [`Loaded`] to find.
//!
//! [`files`] keeps digests and listings warm for all of them, and [`watch`] keeps them true without looking again;
//! [`start`] tells which file is too new to be believed.

pub mod action;
mod disk;
mod elf;
mod error;
pub mod files;
pub mod finder;
pub mod inputs;
pub mod layout;
mod listings;
mod loaded;
mod locale;
pub mod observe;
pub mod recall;
mod resolve;
mod roots;
mod run;
mod scanned;
pub mod start;
pub mod toolchain;
pub mod verify;
pub mod watch;

pub use action::{ActionRequest, BuiltAction};
pub use disk::OnDisk;
pub use error::{Doubt, IntakeError};
pub use files::{Clock, FileFacts, FileTable, Known, Signature, TableCounts};
pub use finder::{FindError, FindRequest, InputFinder, TracedDepends};
pub use inputs::{Input, Inputs, JOBSERVER, Role};
pub use layout::{Blob, BlobSource, InputRoot, LayoutError};
pub use listings::{DirTable, Presence};
pub use loaded::{Loaded, Mapped, is_script};
pub use observe::{Absent, Observed, Scope};
pub use recall::{Change, KeyParts, RecallKey, Recalled, World};
pub use roots::Roots;
pub use scanned::{NotSure, ScanCounts, ScanLimits, ScannedInputs};
pub use start::Start;
pub use toolchain::{Toolchain, ToolchainRequest, Toolchains};
pub use watch::{Watch, WatchCounts};
