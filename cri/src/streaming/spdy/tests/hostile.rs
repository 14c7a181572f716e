//! What bad peers get.
