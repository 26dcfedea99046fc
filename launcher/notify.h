/* What a service manager is told, by the protocol of sd_notify(3): datagrams to the socket that
 * NOTIFY_SOCKET names, a path or "@" and an abstract name. Without one nothing is sent. */
#ifndef ANCLA_NOTIFY_H
#define ANCLA_NOTIFY_H

/* Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment: QEMU is no business
 * of theirs. */
void notify_begin(void);

/* Sends "READY=1" or the like; several assignments are lines of one message. A manager that is busy
 * is waited for, LIMIT_NOTIFY_MS at most, but not with "WATCHDOG=1". What cannot be sent is lost: a
 * manager that does not listen must not stop a VM. Returns 0 if it was sent, or there is
 * nobody to send it to; -1 with errno. */
int notify(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* How often "WATCHDOG=1" is expected, halved, in milliseconds; -1: it is not. */
int notify_watchdog_ms(void);

#endif
