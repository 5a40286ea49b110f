//! Values of the tries.

/// The longest match says: not this way. A reject route, or a hole in a list.
pub const NOBODY: u32 = 0;
/// Set in the number of a set of peers (a multipath route), see [`SetMember`](super::SetMember).
pub const SET: u32 = 1 << 31;
/// Set in the value of a default route, for `loose`.
pub const DEFAULT: u32 = 1 << 30;
/// The number of a peer or of a set.
pub const NUMBER: u32 = DEFAULT - 1;
/// A route that leads to none of our peers.
pub const ELSEWHERE: u32 = NUMBER;
