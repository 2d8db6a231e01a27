//! The operators' read commands: orders, their stories, and the events of the log.

mod acts;
mod completions;
mod doctor;
mod events;
mod orders_list;
mod orders_indexes;
mod rebuild;
mod rebuild_killed;
mod rebuild_traffic;
mod replay;
mod replay_elsewhere;
mod replay_forward;
mod status;
mod story;
mod verify;
