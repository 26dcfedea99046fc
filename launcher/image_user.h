#ifndef ANCLA_IMAGE_USER_H
#define ANCLA_IMAGE_USER_H

/* What to do if QEMU's last words are that it could not lock an image: a clause for an error
 * message that says who has locked it, as far as this user may know; "" for any other words. The
 * caller frees. */
char *image_user_advice(const char *words);

#endif
