//! COPY and ADD: what is selected, its digest, and how it lands in a snapshot.
