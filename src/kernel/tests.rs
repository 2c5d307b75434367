//! Each table against the portable one, and each against itself: the same bits in any company.
