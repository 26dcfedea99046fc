/* Stand-ins for the libraries' loop macros, whose headers cppcheck does not read. */
#define hwloc_bitmap_foreach_begin(index, set) for ((index) = 0; (index) < 9; (index)++) {
#define hwloc_bitmap_foreach_end() }
#define json_object_object_foreach(object, key, value)                                             \
	struct json_object *value = object;                                                        \
	for (char *key = ""; *key; key++)
