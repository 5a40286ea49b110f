//! Exits: which flows leave by which links, in the kernel's own terms.
//!
//! Here live what the operator wants ([`rule`]), the kernel's rules, routes and nexthop objects as
//! plain data ([`iprule`], [`object`]), which links of an exit are used at a moment ([`health`], [`choice`]), what
//! the kernel should therefore hold ([`want`]), and the steps that lead there from what it holds
//! ([`steps`]). Invariants: a packet that a flow selects meets, after each step, what it met before or
//! what it shall meet, never a third; where flows are blocked, no step opens a gap.

pub mod choice;
pub mod health;
pub mod iprule;
pub mod object;
pub mod order;
pub mod rule;
pub mod status;
pub mod steps;
pub mod want;
