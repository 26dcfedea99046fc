package Clock;

# `use Clock qw(time)`: seconds of a clock that nobody sets, to see what time has passed. The machine's
# own may jump while a test waits: a machine corrects it, and tests/rig/clock.t moves it by hours.

use strict;
use warnings;

use Exporter qw(import);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

our @EXPORT_OK = qw(time);

sub time () { return clock_gettime(CLOCK_MONOTONIC) }

1;
