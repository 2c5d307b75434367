//! The fuzzer's thread as the only one of rayon's pool: handing a query to another thread and back takes longer than the query,
//! and an input does the same each time. That results do not depend on threads is what tests are for.

pub fn begin() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    pool.build_global().expect("the first pool of the process");
}
