//! Distribution client: resolve, pull, push and authentication.
